"""What Airflow needs to run a night: the only modules, beside the DAG files, that import it."""
