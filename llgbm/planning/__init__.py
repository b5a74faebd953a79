"""What an experiment takes before anything of it runs: memory for each device, time for each stage, and what that costs."""
