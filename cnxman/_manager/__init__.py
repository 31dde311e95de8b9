"""How a manager runs: its queue of inputs, its worker, its recovery. Knows no serial port."""
