"""The page. gradio is imported in this package and in app.py alone."""
