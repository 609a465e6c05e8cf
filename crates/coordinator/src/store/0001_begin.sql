CREATE TABLE projects (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    path TEXT NOT NULL UNIQUE,
    repository TEXT NOT NULL
);
CREATE TABLE runners (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    token TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL
);
CREATE TABLE pipelines (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    project INTEGER NOT NULL REFERENCES projects (id),
    iid INTEGER NOT NULL,
    status TEXT NOT NULL,
    context TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    finished_at INTEGER
);
CREATE INDEX pipelines_by_project ON pipelines (project, iid);
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    pipeline INTEGER NOT NULL REFERENCES pipelines (id),
    name TEXT NOT NULL,
    stage TEXT NOT NULL,
    stage_index INTEGER NOT NULL,
    token TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    allow_failure INTEGER NOT NULL,
    schedule TEXT NOT NULL,
    payload TEXT NOT NULL,
    timeout_seconds INTEGER NOT NULL,
    graceful INTEGER NOT NULL DEFAULT 0,
    failure_reason TEXT,
    exit_code INTEGER,
    queued_at INTEGER,
    handed_at INTEGER,
    started_at INTEGER,
    touched_at INTEGER,
    finished_at INTEGER,
    reported_checksum TEXT,
    reported_bytes INTEGER
);
CREATE INDEX jobs_by_pipeline ON jobs (pipeline, stage_index);
CREATE INDEX jobs_to_hand_out ON jobs (id) WHERE status = 'pending' AND handed_at IS NULL;
CREATE INDEX jobs_to_watch ON jobs (status, handed_at) WHERE status IN ('pending', 'running', 'canceling');
CREATE TABLE artifacts (
    job INTEGER NOT NULL REFERENCES jobs (id),
    type TEXT NOT NULL,
    format TEXT NOT NULL,
    filename TEXT NOT NULL,
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    expire_in TEXT NOT NULL,
    stored TEXT NOT NULL,
    PRIMARY KEY (job, type)
);
