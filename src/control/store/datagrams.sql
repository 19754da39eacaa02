-- What a UDP association passed on; NULL for TCP, and for what was written before this.
ALTER TABLE sessions ADD COLUMN datagrams_up INTEGER;
ALTER TABLE sessions ADD COLUMN datagrams_down INTEGER;
-- Its columns are those of `sessions` and, named last, `round`: whoever writes names them all.
ALTER TABLE active ADD COLUMN datagrams_up INTEGER;
ALTER TABLE active ADD COLUMN datagrams_down INTEGER;
