"""`fsimformer explore`: a page on this machine where readings are moved by hand and the posterior follows.

    board.py     what is held: readings, known parameters, intervals; the script that does the same. No page.
    picture.py   what is shown of it, as arrays.
    newest.py    the thread that computes; only the newest request counts.
    panels.py    a function's bands with its readings, a scalar's density (Bokeh).
    page.py      the page of one browser tab (Bokeh): it moves things between the three.
    server.py    the loopback server, its token and whom it answers.

The last three need the extra `explore`.
"""
