"""What several test files share; test files do not import each other."""
