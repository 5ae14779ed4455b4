"""What the annotators and the admin see in the browser, and the server behind it."""
