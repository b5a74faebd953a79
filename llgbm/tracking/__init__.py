"""The record of what ran: seeds, code and machine, stages that run once, and the folder of a run."""
