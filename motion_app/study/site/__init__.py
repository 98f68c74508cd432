"""The study in the browser: the rater's page and the administrator's, one FastAPI application that
knows nothing of the rest of the app. ``api.md`` describes its calls."""
