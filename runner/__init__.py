"""A configuration-driven batch job runner for LLM APIs: one YAML file in, ordered Parquet out."""

__version__ = "0.1.0"
