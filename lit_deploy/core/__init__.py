"""What everything stands on: errors, specs, files, progress, processes. Imports nothing of ours."""
