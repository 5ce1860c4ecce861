"""The queue of jobs and the service that works through it, and the records of the moments of schedules."""
