"""What pages show, as plain data: one module for each group of pages."""
