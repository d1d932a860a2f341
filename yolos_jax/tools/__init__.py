"""Tools built on the package: analysis, the page, export, data checks. Only programs import them."""
