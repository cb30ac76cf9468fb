"""A report to look at: one HTML file with tables, charts and pictures, which needs nothing else.

`cases` makes the pictures of a page, `page` writes it of the templates page.html, page.css and page.js.
"""
