"""The built-in task runners. Each module stands alone; the core never imports them."""
