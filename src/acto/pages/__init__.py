"""Charts and templates of the HTML pages and the model card."""
