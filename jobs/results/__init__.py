"""Reading, filtering, exporting and comparing the results of jobs."""
