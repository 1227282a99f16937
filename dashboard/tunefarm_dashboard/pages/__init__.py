"""The pages: one module for each group, which adds its routes, sections and tables to the board."""
