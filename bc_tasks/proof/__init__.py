"""What an auditor asks: where a version comes from and whether every link holds, and which models saw a patient."""
