"""What users import: request_device and what it gives."""
