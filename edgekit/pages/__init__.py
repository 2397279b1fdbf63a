"""Reports as HTML pages that stand by themselves: nothing is loaded for them."""
