"""Reading attributes back from finished clips."""
