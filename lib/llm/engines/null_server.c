/* A language model that thinks nothing, exactly on time: the ruler against which the client is calibrated.
 *
 * Speaks OpenAI's /v1/completions and /v1/chat/completions, streamed or whole, and answers with known delays: after a request
 * is received, token i is due at  recv + ttft + i * tpot.  The schedule is absolute, so lateness never adds up. It stamps what
 * it did (CLOCK_MONOTONIC, which is Python's perf_counter_ns on Linux), and GET /stamps hands the stamps over: whoever reads
 * them can tell the server's own lateness from the client's.
 *
 * One thread, one epoll; a token costs one clock reading and one send(2) of bytes prepared beforehand.
 * It listens on loopback alone, bounds everything it keeps (body 1 MiB, connections, stamps), never sends a token early, and
 * ends with SIGTERM or with the process that started it.
 *
 * The field "user" of a request plants a fault, so that tests can see what a client makes of it:
 *   cut-utf8            every event leaves in two writes, 1 ms apart, cut inside a UTF-8 character
 *   glue                events leave in pairs, two in one write, when the second is due
 *   drop:n              the connection is closed when event n (from 0) is due
 *   error-event:n       an error event under status 200 takes the place of event n, then the stream ends
 *   no-usage            usage is never told         usage-last-choice   usage rides in the last token's own event
 *   short:n             n tokens fewer than asked   status:n            refused at once with HTTP status n
 *   role-first          an event without a token comes at once, before the first token
 *   per-event:k         k tokens an event           hang                no byte is ever sent
 * Any other "user" is the request's id in the stamps; the header X-Request-Id goes before it.
 *
 *   cc -O2 -std=c11 -o null-server null_server.c
 *   null-server --port 0 --ttft-ms 50 --tpot-ms 10 [--tokens-per-event 1] [--first-event token|role] [--spin-us 0] [--model null]
 * prints "listening on PORT" once it does.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    HEAD_MAX = 16 << 10, BODY_MAX = 1 << 20, CONNECTIONS_MAX = 4096, TOKENS_MAX = 1 << 16, PER_EVENT_MAX = 64,
    ID_MAX = 128, STAMPS_MAX = 4 << 20, BACKLOG_MAX = 8 << 20, JSON_DEPTH_MAX = 32, EVENT_MAX = 2048,
};
static const uint64_t MS = 1000000, LINGER_NS = 1000000000;

typedef enum { NONE, CUT, GLUE, DROP, ERROR_EVENT, NO_USAGE, USAGE_LAST, SHORT, STATUS, ROLE_FIRST, PER_EVENT, HANG } Fault;
static const struct { const char *name; Fault fault; bool counted; } FAULTS[] = {
    {"cut-utf8", CUT, false}, {"glue", GLUE, false}, {"drop", DROP, true}, {"error-event", ERROR_EVENT, true},
    {"no-usage", NO_USAGE, false}, {"usage-last-choice", USAGE_LAST, false}, {"short", SHORT, true},
    {"status", STATUS, true}, {"role-first", ROLE_FIRST, false}, {"per-event", PER_EVENT, true}, {"hang", HANG, false},
};

typedef struct Record { /* what was done for one request, kept until GET /stamps */
    struct Record *next;
    char id[ID_MAX];
    unsigned long connection, ordinal;
    uint64_t recv_ns;
    int per_event, events, capacity;
    bool complete;
    uint64_t sent_ns[];
} Record;

typedef struct { /* one request as asked */
    char id[ID_MAX];
    bool chat, stream, usage;
    long tokens, prompt_tokens, fault_n;
    Fault fault;
} Ask;

typedef struct Connection {
    int fd, heap_at;            /* heap_at -1: nothing is due here */
    unsigned long number, requests;
    uint64_t due_ns;
    char *in;                   /* bytes received and not yet consumed */
    size_t in_len, in_cap;
    char *out;                  /* bytes the kernel would not take yet */
    size_t out_at, out_len, out_cap;
    bool busy, head_sent, close_after, draining, wants_write;
    Ask ask;
    int per_event, events;      /* tokens an event; events sent */
    long sent_tokens;
    char half[EVENT_MAX];       /* second half of a cut event */
    size_t half_len;
    Record *record;
    struct Connection *dead;
} Connection;

static uint64_t ttft_ns = 50000000, tpot_ns = 10000000, spin_ns;
static int tokens_per_event = 1;
static bool role_first;
static const char *model = "null";
static int epoll, connections;
static unsigned long accepted, requests_total, prompt_total, output_total, stamps_kept, stamps_dropped;
static Connection *heap[CONNECTIONS_MAX + 1], *graveyard;
static int heap_len;
static Record *records, **records_end = &records;
static struct { size_t len; char bytes[EVENT_MAX]; } prepared[2][PER_EVENT_MAX + 1]; /* [chat][tokens] */

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *checked(void *memory) {
    if (!memory) { fputs("null-server: out of memory\n", stderr); exit(1); }
    return memory;
}

/* ---- deadlines: a binary heap of connections, each of which knows its place ---- */

static void heap_put(int at, Connection *c) { heap[at] = c; c->heap_at = at; }

static void heap_settle(int at, Connection *c) {
    for (int up; at > 0 && heap[up = (at - 1) / 2]->due_ns > c->due_ns; at = up) heap_put(at, heap[up]);
    for (int down; (down = 2 * at + 1) < heap_len; at = down) {
        if (down + 1 < heap_len && heap[down + 1]->due_ns < heap[down]->due_ns) down++;
        if (heap[down]->due_ns >= c->due_ns) break;
        heap_put(at, heap[down]);
    }
    heap_put(at, c);
}

static void schedule(Connection *c, uint64_t due_ns) {
    c->due_ns = due_ns;
    heap_settle(c->heap_at < 0 ? heap_len++ : c->heap_at, c);
}

static void unschedule(Connection *c) {
    if (c->heap_at < 0) return;
    int at = c->heap_at;
    Connection *last = heap[--heap_len];
    if (last != c) heap_settle(at, last);
    c->heap_at = -1;
}

/* ---- connections ---- */

static void record_done(Connection *c, bool complete) {
    if (!c->record) return;
    stamps_kept -= (unsigned long)(c->record->capacity - c->record->events);
    c->record->capacity = c->record->events;
    c->record->complete = complete;
    *records_end = c->record;
    records_end = &c->record->next;
    c->record = NULL;
}

static void hang_up(Connection *c) {
    if (c->fd < 0) return;
    record_done(c, false);
    unschedule(c);
    close(c->fd);
    c->fd = -1;
    c->dead = graveyard; /* events of this epoll round may still name it: it is freed after the round */
    graveyard = c;
    connections--;
}

static void bury(void) {
    for (Connection *c; (c = graveyard);) {
        graveyard = c->dead;
        free(c->in);
        free(c->out);
        free(c);
    }
}

static void watch(Connection *c, bool wants_write) {
    if (c->wants_write == wants_write) return;
    c->wants_write = wants_write;
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP | (wants_write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &e);
}

static void after_flush(Connection *c) {
    if (c->busy || c->draining || !c->close_after) return;
    shutdown(c->fd, SHUT_WR); /* closing with unread bytes would reset the connection and take the answer with it */
    c->draining = true;
    schedule(c, now_ns() + LINGER_NS);
}

static void put(Connection *c, const char *bytes, size_t len, size_t backlog_max) {
    if (c->fd < 0) return;
    if (c->out_len == c->out_at) {
        ssize_t sent = send(c->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN) { hang_up(c); return; }
        if (sent > 0) { bytes += sent; len -= (size_t)sent; }
        if (!len) return;
        c->out_at = c->out_len = 0;
    }
    if (c->out_len - c->out_at + len > backlog_max) { hang_up(c); return; } /* a client that does not read is not waited for */
    if (c->out_len + len > c->out_cap) c->out = checked(realloc(c->out, c->out_cap = 2 * (c->out_len + len)));
    memcpy(c->out + c->out_len, bytes, len);
    c->out_len += len;
    watch(c, true);
}

static void flush(Connection *c) {
    while (c->out_at < c->out_len) {
        ssize_t sent = send(c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0) { if (errno != EAGAIN) hang_up(c); return; }
        c->out_at += (size_t)sent;
    }
    c->out_at = c->out_len = 0;
    watch(c, false);
    after_flush(c);
}

/* ---- answers ---- */

static void respond(Connection *c, int status, const char *type, const char *body, size_t len) {
    char head[256];
    int n = snprintf(head, sizeof head, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s\r\n", status,
                     status < 400 ? "OK" : "Refused", type, len, c->close_after ? "Connection: close\r\n" : "");
    put(c, head, (size_t)n, SIZE_MAX);
    put(c, body, len, SIZE_MAX);
    if (c->fd >= 0 && c->out_at == c->out_len) after_flush(c);
}

static void refuse(Connection *c, int status, const char *why, bool hopeless) {
    char body[512];
    int n = snprintf(body, sizeof body, "{\"error\":{\"message\":\"%s\",\"type\":\"invalid_request_error\",\"code\":%d}}", why, status);
    c->close_after |= hopeless; /* the stream of bytes cannot be trusted any more */
    respond(c, status, "application/json", body, (size_t)n);
}

/* One server-sent event in one HTTP chunk. `unit` is the text of a token, `finish` and `usage` are JSON. */
static size_t event_chunk(char *out, bool chat, const char *unit, int tokens, const char *finish, const char *usage) {
    char text[EVENT_MAX / 4] = "", line[EVENT_MAX - 16];
    for (char *t = text; tokens > 0; tokens--) t = stpcpy(t, unit);
    int n = chat ? snprintf(line, sizeof line,
                            "data: {\"id\":\"null\",\"object\":\"chat.completion.chunk\",\"created\":0,\"model\":\"%s\",\"choices\":"
                            "[{\"index\":0,\"delta\":{\"content\":\"%s\"},\"finish_reason\":%s}]%s}\n\n", model, text, finish, usage)
                 : snprintf(line, sizeof line,
                            "data: {\"id\":\"null\",\"object\":\"text_completion\",\"created\":0,\"model\":\"%s\",\"choices\":"
                            "[{\"index\":0,\"text\":\"%s\",\"finish_reason\":%s}]%s}\n\n", model, text, finish, usage);
    return (size_t)sprintf(out, "%x\r\n%s\r\n", (unsigned)n, line);
}

static size_t line_chunk(char *out, const char *payload) {
    return (size_t)sprintf(out, "%x\r\ndata: %s\n\n\r\n", (unsigned)strlen(payload) + 8, payload);
}

static int usage_json(char *out, size_t size, const Ask *ask, long tokens) {
    return snprintf(out, size, "\"usage\":{\"prompt_tokens\":%ld,\"completion_tokens\":%ld,\"total_tokens\":%ld}",
                    ask->prompt_tokens, tokens, ask->prompt_tokens + tokens);
}

static const char HEAD[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n";

static char *head_once(Connection *c, char *to) {
    if (c->head_sent) return to;
    c->head_sent = true;
    return stpcpy(to, HEAD);
}

static void finished(Connection *c) {
    record_done(c, true);
    unschedule(c);
    c->busy = false;
    if (c->fd >= 0 && c->out_at == c->out_len) after_flush(c);
}

static void stamp(Connection *c, int events, long tokens, uint64_t at_ns) {
    for (int i = 0; c->record && i < events; i++) c->record->sent_ns[c->record->events++] = at_ns;
    c->events += events;
    c->sent_tokens += tokens;
    output_total += (unsigned long)tokens;
}

/* The next write is due when its last token is: ttft belongs to the whole first event, tpot to every token after it. */
static void schedule_next(Connection *c) {
    long tokens = c->sent_tokens + (c->ask.fault == GLUE ? 2L : 1L) * c->per_event;
    if (!c->ask.stream || tokens > c->ask.tokens) tokens = c->ask.tokens;
    long after_first = tokens - (c->ask.stream ? c->per_event : 1);
    schedule(c, c->ask.fault == HANG ? UINT64_MAX
                                     : c->recv_due_base + ttft_ns + (uint64_t)(after_first > 0 ? after_first : 0) * tpot_ns);
}

static void answer_whole(Connection *c) {
    const Ask *a = &c->ask;
    char usage[128], *body = checked(malloc((size_t)a->tokens * 2 + 512 + strlen(model))), *at = body;
    usage_json(usage, sizeof usage, a, a->tokens);
    at += sprintf(at, "{\"id\":\"null\",\"object\":\"%s\",\"created\":0,\"model\":\"%s\",\"choices\":[{\"index\":0,%s",
                  a->chat ? "chat.completion" : "text_completion", model,
                  a->chat ? "\"message\":{\"role\":\"assistant\",\"content\":\"" : "\"text\":\"");
    for (long i = 0; i < a->tokens; i++) at = stpcpy(at, " a");
    at += sprintf(at, "\"%s,\"finish_reason\":\"%s\"}]%s%s}", a->chat ? "}" : "", a->fault == SHORT ? "stop" : "length",
                  a->fault == NO_USAGE ? "" : ",", a->fault == NO_USAGE ? "" : usage);
    stamp(c, 1, a->tokens, now_ns());
    respond(c, 200, "application/json", body, (size_t)(at - body));
    free(body);
    finished(c);
}

static void send_tail(Connection *c, char *from, char *at) {
    at += line_chunk(at, "[DONE]");
    at = stpcpy(at, "0\r\n\r\n");
    put(c, from, (size_t)(at - from), BACKLOG_MAX);
    finished(c);
}

static void emit(Connection *c) {
    const Ask *a = &c->ask;
    char buffer[4 * EVENT_MAX], usage[160] = "", *at = buffer;
    if (!a->stream) { answer_whole(c); return; }
    if (c->half_len) { /* the character is made whole, and with it the event */
        size_t len = c->half_len;
        c->half_len = 0;
        uint64_t at_ns = now_ns();
        put(c, c->half, len, BACKLOG_MAX);
        if (c->fd < 0) return;
        stamp(c, 1, c->half_tokens, at_ns);
        if (c->sent_tokens < a->tokens) schedule_next(c); else send_tail(c, buffer, at);
        return;
    }
    if (a->fault == DROP && c->events == a->fault_n) { hang_up(c); return; }
    if (a->fault == ERROR_EVENT && c->events == a->fault_n) {
        at = head_once(c, at);
        at += line_chunk(at, "{\"error\":{\"message\":\"planted\",\"type\":\"server_error\",\"code\":500}}");
        send_tail(c, buffer, at);
        return;
    }
    long left = a->tokens - c->sent_tokens;
    int tokens = left < c->per_event ? (int)left : c->per_event;
    if (c->head_sent && left > tokens && (a->fault == NONE || a->fault == PER_EVENT)) { /* the measured path */
        uint64_t at_ns = now_ns();
        put(c, prepared[a->chat][tokens].bytes, prepared[a->chat][tokens].len, BACKLOG_MAX);
        if (c->fd < 0) return;
        stamp(c, 1, tokens, at_ns);
        schedule_next(c);
        return;
    }
    at = head_once(c, at);
    int events = 0, total = 0;
    do {
        left -= tokens;
        char *event = at;
        if (!left && a->fault == USAGE_LAST) { usage[0] = ','; usage_json(usage + 1, sizeof usage - 1, a, a->tokens); }
        at += event_chunk(at, a->chat, a->fault == CUT ? " \xe6\x97\xa5" : " a", tokens,
                          left ? "null" : a->fault == SHORT ? "\"stop\"" : "\"length\"", usage);
        events++, total += tokens;
        if (a->fault == CUT) {
            char *middle = memchr(event, 0xe6, (size_t)(at - event)) + 1;
            memcpy(c->half, middle, c->half_len = (size_t)(at - middle));
            if (!left) c->half_len = (size_t)(stpcpy_usage(c, c->half + c->half_len) - c->half);
            c->half_tokens = tokens;
            put(c, buffer, (size_t)(middle - buffer), BACKLOG_MAX);
            if (c->fd >= 0) schedule(c, now_ns() + MS);
            return;
        }
        tokens = left < c->per_event ? (int)left : c->per_event;
    } while (a->fault == GLUE && left && events < 2);
    uint64_t at_ns = now_ns();
    stamp(c, events, total, at_ns);
    if (left) {
        put(c, buffer, (size_t)(at - buffer), BACKLOG_MAX);
        if (c->fd >= 0) schedule_next(c);
        return;
    }
    send_tail(c, buffer, stpcpy_usage(c, at));
}
