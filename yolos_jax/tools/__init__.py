"""What is built upon the package: analysis, the page, exported programs, checks of data. Only programs import it."""
