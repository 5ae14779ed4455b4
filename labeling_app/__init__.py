"""The ranking app: people order a model's completions in the browser, and the store keeps every answer."""
