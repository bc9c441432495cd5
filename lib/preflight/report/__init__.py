"""The output of a build for operators and programs.

run_log       collects what a run does
build_report  the build report as JSON
table         the closing table
logs          log lines as JSON or plain text
"""
