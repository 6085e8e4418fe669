"""What every box stands on: artifacts, documents, errors, configuration, devices and progress. Imports no torch eagerly."""
