"""Job stores: PostgreSQL, memory, and a wrapper that injects faults. All run the verbs of the port."""
