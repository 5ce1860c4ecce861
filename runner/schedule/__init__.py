"""When a job runs by itself: its `schedule` section, the moments that it means, and what other schedulers are told."""
