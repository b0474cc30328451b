"""What is computed, free of any framework: profiles, model configuration, precisions."""
