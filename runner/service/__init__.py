"""The queue of jobs and the service that works through it: `runner submit`, `runner serve`, and the moments of schedules."""
