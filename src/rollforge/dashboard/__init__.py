"""``rollforge dashboard``: a read-only web page about what is running, what failed and what came out."""
