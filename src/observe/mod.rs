//! What people see of it: log lines, their formats and the sink they go to.
