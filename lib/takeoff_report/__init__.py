"""The reporter: runs the verifier in a separate process and reports its verdict.

It reports to the flight recorder, to the journal, and by MAVLink to the ground station and the autopilot. It is
separate from `takeoff`, so that it cannot change a verdict. The verifier runs alone, and the reporter exits with the
verifier's status even if a report fails. Only MAVLink needs more than the standard library: pymavlink (the extra
`aircraft`).

command_line  the commands `verify`, `authorise` and `read`
config        the configuration file
verifier_run  runs the verifier and takes its verdict
events        the events that are written to journal and flight recorder
sinks         delivers a verdict to all places
journal       lines for systemd's journal
flight_log    the file of the flight recorder
arm           arm authorisation
mavlink       MAVLink messages
transport     UDP and serial lines
"""
