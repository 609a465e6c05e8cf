CREATE TABLE dotenv (
    job INTEGER NOT NULL REFERENCES jobs (id),
    position INTEGER NOT NULL,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (job, position)
);
