"""The yearly transparency report: counted from the audit log, small numbers hidden."""
