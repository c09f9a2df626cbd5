"""Things to click in the notebooks, thin shells around plain functions; a module per lesson. Needs ipywidgets."""
