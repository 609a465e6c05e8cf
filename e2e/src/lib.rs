//! Scenarios, played on the embedded node and on a real cluster alike.
