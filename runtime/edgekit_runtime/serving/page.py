"""The page at ``/``: what is served, and how to ask."""

from html import escape

from edgekit_runtime.serving.models import Models

HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}
_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44em; margin: 3em auto; padding: 0 1em }}
</style>
<h1>{title}</h1>
<p>This server speaks OpenAI's protocol. Give a client the base URL <code>{url}</code>.</p>
{models}
<p>Also here: <a href="/openapi.json">openapi.json</a>, <a href="/health">health</a>,
<a href="/metrics">metrics</a>.</p>
</html>
"""


def page(models: Models, *, url: str, has_key: bool) -> str:
    """The page as HTML; behind a key it names nothing that is served."""
    if has_key:
        return _PAGE.format(title="edgekit", url=escape(url), models="<p>It asks for a key.</p>")
    listed = "".join(f"<li><code>{escape(name)}</code></li>" for name in models.names())
    return _PAGE.format(
        title=f"{escape(models.bundle)} {escape(models.version)}",
        url=escape(url),
        models=f"<p>Models, by the target {escape(models.target)}:</p><ul>{listed}</ul>",
    )
