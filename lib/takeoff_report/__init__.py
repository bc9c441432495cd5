"""The reporter: runs the verifier in a process of its own and says its verdict where it must be heard.

To the flight recorder, to the ground station and the autopilot by MAVLink, and to the journal. Apart from `takeoff`, so that
nothing of it can change a verdict: the verifier runs by itself, and its exit status is the reporter's, whatever fails here.
The standard library is enough for everything but MAVLink, which needs pymavlink (the extra `aircraft`).
"""
