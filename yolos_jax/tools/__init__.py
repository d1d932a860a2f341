"""Tools for the programs: analysis, the web page, export and data checks."""
