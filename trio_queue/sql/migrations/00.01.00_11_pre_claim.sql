-- Whether it is this call's turn. A worker numbers its claims and releases, one after the other; once a later one has begun, an
-- earlier one is void. One whose answer was lost may still arrive: TCP sends again, for half a minute and longer, what a process
-- has sent and then closed the connection. A claim that came after the release of what it might have claimed would leave jobs that
-- nobody runs under a living worker; a release that came after a later claim would give back jobs that run.
--
-- The row stays locked until the end of the transaction: whoever takes the next turn sees what this one did. The worker's own row
-- first, in the order of whoever deletes it. turn: NULL is always right, and so is any for a worker that has no row with us (whether
-- it may claim is the triggers' affair).
CREATE OR REPLACE FUNCTION trio_queue_take_turn_v1(worker_id bigint, turn bigint) RETURNS boolean LANGUAGE plpgsql
SET enable_seqscan = off SET jit = off AS $$
BEGIN
    IF turn IS NULL THEN
        RETURN true;
    END IF;
    PERFORM FROM procrastinate_workers p WHERE p.id = trio_queue_take_turn_v1.worker_id FOR KEY SHARE;
    UPDATE trio_queue_workers w SET last_turn = turn WHERE w.worker_id = trio_queue_take_turn_v1.worker_id AND w.last_turn < turn;
    RETURN FOUND OR NOT EXISTS (SELECT FROM trio_queue_workers w WHERE w.worker_id = trio_queue_take_turn_v1.worker_id);
END $$;
