// Not a module, so that it runs before the first paint: the theme that was chosen here, if any.
{
  const chosen = localStorage.getItem("edgekit-theme");
  if (chosen) document.documentElement.dataset.theme = chosen;
}
