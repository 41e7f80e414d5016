"""`horae up`: what it runs, and how programs are kept running in the foreground."""

from engine.supervise.one import only_one, stop_other
from engine.supervise.programs import Plan, plan_programs
from engine.supervise.supervisor import Program, Supervisor

__all__ = ["Plan", "Program", "Supervisor", "only_one", "plan_programs", "stop_other"]
