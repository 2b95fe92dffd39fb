"""A web service that scores photographs with one run, and its page."""
