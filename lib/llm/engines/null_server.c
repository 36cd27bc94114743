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
 *   cut-utf8            every event leaves in two writes, 5 ms apart, cut inside a UTF-8 character
 *   late-end:n          the last n bytes of the answer (1 to 16; 5 are the last chunk) leave 5 ms after the rest
 *   closes              after a whole answer the connection is closed without a word (llama-server does so)
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
static const uint64_t CUT_NS = 5000000, LINGER_NS = 1000000000;

typedef enum { NONE, CUT, LATE_END, CLOSES, GLUE, DROP, ERROR_EVENT, NO_USAGE, USAGE_LAST, SHORT, STATUS, ROLE_FIRST, PER_EVENT, HANG } Fault;
static const struct { const char *name; Fault fault; bool counted; } FAULTS[] = {
    {"cut-utf8", CUT, false}, {"late-end", LATE_END, true}, {"closes", CLOSES, false}, {"glue", GLUE, false}, {"drop", DROP, true}, {"error-event", ERROR_EVENT, true},
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
    uint64_t recv_ns, due_ns;
    char *in;                   /* bytes received and not yet consumed */
    size_t in_len, in_cap;
    char *out;                  /* bytes the kernel would not take yet */
    size_t out_at, out_len, out_cap;
    bool busy, head_sent, close_after, draining, wants_write, continued;
    Ask ask;
    int per_event, events;      /* tokens an event; events sent */
    long sent_tokens;
    char half[EVENT_MAX];       /* second half of a cut event, or an answer's late end */
    size_t half_len;
    int half_tokens;
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
    stamps_kept -= (unsigned long)(c->record->capacity - c->record->events); /* what was reserved and not needed */
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
    char *answer = checked(malloc(len + 256)); /* head and body in one write, so that they arrive together */
    int n = snprintf(answer, 256, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s\r\n", status,
                     status < 400 ? "OK" : "Refused", type, len, c->close_after ? "Connection: close\r\n" : "");
    memcpy(answer + n, body, len);
    put(c, answer, (size_t)n + len, SIZE_MAX);
    free(answer);
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
                                     : c->recv_ns + ttft_ns + (uint64_t)(after_first > 0 ? after_first : 0) * tpot_ns);
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


static void end_stream(Connection *c, char *from, char *at, bool with_usage) {
    const Ask *a = &c->ask;
    if (with_usage && a->usage && a->fault != NO_USAGE && a->fault != USAGE_LAST) {
        char usage[160], payload[512];
        usage_json(usage, sizeof usage, a, a->tokens);
        snprintf(payload, sizeof payload, "{\"id\":\"null\",\"object\":\"%s\",\"created\":0,\"model\":\"%s\",\"choices\":[],%s}",
                 a->chat ? "chat.completion.chunk" : "text_completion", model, usage);
        at += line_chunk(at, payload);
    }
    at += line_chunk(at, "[DONE]");
    at = stpcpy(at, "0\r\n\r\n");
    if (a->fault == LATE_END) {
        at -= a->fault_n;
        memcpy(c->half, at, c->half_len = (size_t)a->fault_n);
        schedule(c, now_ns() + CUT_NS);
    }
    put(c, from, (size_t)(at - from), BACKLOG_MAX);
    if (a->fault != LATE_END) finished(c);
    if (a->fault == CLOSES) hang_up(c);
}

static char *token_event(const Connection *c, char *at, long left_after, int tokens) {
    const Ask *a = &c->ask;
    char usage[160] = "";
    if (!left_after && a->fault == USAGE_LAST) {
        usage[0] = ',';
        usage_json(usage + 1, sizeof usage - 1, a, a->tokens);
    }
    return at + event_chunk(at, a->chat, a->fault == CUT ? " \xe6\x97\xa5" : " a", tokens,
                            left_after ? "null" : a->fault == SHORT ? "\"stop\"" : "\"length\"", usage);
}

static void emit_cut(Connection *c, char *buffer, char *at) {
    long left = c->ask.tokens - c->sent_tokens;
    if (c->half_len) { /* the character is made whole, and with it the event */
        stamp(c, 1, c->half_tokens, now_ns());
        put(c, c->half, c->half_len, BACKLOG_MAX);
        c->half_len = 0;
        if (c->fd < 0) return;
        if (c->sent_tokens < c->ask.tokens) schedule_next(c); else end_stream(c, buffer, at, true);
        return;
    }
    c->half_tokens = left < c->per_event ? (int)left : c->per_event;
    char *event = at, *end = token_event(c, at, left - c->half_tokens, c->half_tokens);
    char *middle = (char *)memchr(event, 0xe6, (size_t)(end - event)) + 1;
    memcpy(c->half, middle, c->half_len = (size_t)(end - middle));
    put(c, buffer, (size_t)(middle - buffer), BACKLOG_MAX);
    if (c->fd >= 0) schedule(c, now_ns() + CUT_NS);
}

static void emit(Connection *c) { /* called when something is due on this connection, never before */
    const Ask *a = &c->ask;
    if (c->draining) { hang_up(c); return; }
    if (!a->stream) { answer_whole(c); return; }
    if (a->fault == LATE_END && c->half_len) {
        put(c, c->half, c->half_len, BACKLOG_MAX);
        finished(c);
        return;
    }
    if (a->fault == DROP && c->events == a->fault_n) { hang_up(c); return; }
    long left = a->tokens - c->sent_tokens;
    if (c->head_sent && left > c->per_event && (a->fault == NONE || a->fault == PER_EVENT)) { /* the measured path */
        stamp(c, 1, c->per_event, now_ns());
        put(c, prepared[a->chat][c->per_event].bytes, prepared[a->chat][c->per_event].len, BACKLOG_MAX);
        if (c->fd >= 0) schedule_next(c);
        return;
    }
    char buffer[4 * EVENT_MAX], *at = head_once(c, buffer);
    if (a->fault == CUT) { emit_cut(c, buffer, at); return; }
    if (a->fault == ERROR_EVENT && c->events == a->fault_n) {
        at += line_chunk(at, "{\"error\":{\"message\":\"planted\",\"type\":\"server_error\",\"code\":500}}");
        end_stream(c, buffer, at, false);
        return;
    }
    int events = 0;
    long before = left;
    do {
        int tokens = left < c->per_event ? (int)left : c->per_event;
        left -= tokens;
        at = token_event(c, at, left, tokens);
    } while (++events < (a->fault == GLUE ? 2 : 1) && left);
    stamp(c, events, before - left, now_ns());
    if (!left) { end_stream(c, buffer, at, true); return; }
    put(c, buffer, (size_t)(at - buffer), BACKLOG_MAX);
    if (c->fd >= 0) schedule_next(c);
}

static void begin(Connection *c, const Ask *ask, uint64_t recv_ns) {
    c->ask = *ask;
    c->busy = true;
    c->head_sent = false;
    c->recv_ns = recv_ns;
    c->events = 0;
    c->sent_tokens = 0;
    c->half_len = 0;
    c->per_event = ask->fault == PER_EVENT ? (int)ask->fault_n : tokens_per_event;
    requests_total++;
    prompt_total += (unsigned long)ask->prompt_tokens;
    c->requests++;
    int capacity = ask->stream ? (int)((ask->tokens + c->per_event - 1) / c->per_event) : 1;
    if (stamps_kept + (unsigned long)capacity + sizeof(Record) / 8 > STAMPS_MAX) stamps_dropped++;
    else {
        c->record = checked(calloc(1, sizeof(Record) + (size_t)capacity * sizeof(uint64_t)));
        memcpy(c->record->id, ask->id, ID_MAX);
        c->record->connection = c->number;
        c->record->ordinal = c->requests - 1;
        c->record->recv_ns = recv_ns;
        c->record->per_event = c->per_event;
        c->record->capacity = capacity;
        stamps_kept += (unsigned long)capacity + sizeof(Record) / 8;
    }
    if (ask->fault == HANG) return;
    schedule_next(c);
    if (!ask->stream || !(ask->fault == ROLE_FIRST || role_first)) return;
    char buffer[EVENT_MAX], *at = head_once(c, buffer);
    at += ask->chat ? line_chunk(at, "{\"id\":\"null\",\"object\":\"chat.completion.chunk\",\"created\":0,\"choices\":[{\"index\":0,"
                                     "\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}")
                    : line_chunk(at, "{\"id\":\"null\",\"object\":\"text_completion\",\"created\":0,\"choices\":[{\"index\":0,"
                                     "\"text\":\"\",\"finish_reason\":null}]}");
    put(c, buffer, (size_t)(at - buffer), BACKLOG_MAX);
}

static void hand_over_stamps(Connection *c) {
    size_t room = 256, len = 0;
    for (Record *r = records; r; r = r->next) room += 256 + ID_MAX + 21 * (size_t)r->events;
    char *body = checked(malloc(room));
    for (Record *r; (r = records);) {
        len += (size_t)sprintf(body + len, "{\"id\":\"%s\",\"connection\":%lu,\"ordinal\":%lu,\"complete\":%s,\"per_event\":%d,"
                               "\"recv_ns\":%llu,\"sent_ns\":[", r->id, r->connection, r->ordinal, r->complete ? "true" : "false",
                               r->per_event, (unsigned long long)r->recv_ns);
        for (int i = 0; i < r->events; i++)
            len += (size_t)sprintf(body + len, i ? ",%llu" : "%llu", (unsigned long long)r->sent_ns[i]);
        len += (size_t)sprintf(body + len, "]}\n");
        records = r->next;
        stamps_kept -= (unsigned long)r->events + sizeof(Record) / 8;
        free(r);
    }
    records_end = &records;
    len += (size_t)sprintf(body + len, "{\"requests_without_stamps\":%lu}\n", stamps_dropped);
    stamps_dropped = 0;
    respond(c, 200, "application/x-ndjson", body, len);
    free(body);
}

/* ---- what is asked: as much JSON as is needed, checked for form ---- */

static const char *blank(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
    return p;
}

static const char *string_end(const char *p, const char *end) { /* p at the opening quote; NULL when malformed */
    for (p++; p < end && *p != '"'; p++) {
        if ((unsigned char)*p < 0x20) return NULL;
        if (*p == '\\' && ++p == end) return NULL;
    }
    return p < end ? p + 1 : NULL;
}

static bool is(const char *p, const char *end, const char *literal) {
    size_t n = strlen(literal);
    return (size_t)(end - p) == n && !memcmp(p, literal, n);
}

/* The end of the value at p, or NULL when it is no JSON. `weight` grows by its tokens as far as they can be known here:
 * one for a number (a token id), one for each blank-separated word of a text, in objects those under "content" and "text". */
static const char *value_end(const char *p, const char *end, int depth, long *weight) {
    p = blank(p, end);
    if (p == end || depth > JSON_DEPTH_MAX) return NULL;
    if (*p == '"') {
        const char *stop = string_end(p, end);
        bool in_word = false;
        for (p++; stop && p < stop - 1; p++) {
            if (*p != ' ' && !in_word) ++*weight;
            in_word = *p != ' ';
        }
        return stop;
    }
    if (*p == '[' || *p == '{') {
        bool object = *p == '{';
        char close = object ? '}' : ']';
        p = blank(p + 1, end);
        if (p < end && *p == close) return p + 1;
        while (p < end) {
            long aside = 0;
            bool counts = true;
            if (object) {
                const char *key = p;
                if (*p != '"' || !(p = string_end(p, end))) return NULL;
                counts = is(key, p, "\"content\"") || is(key, p, "\"text\"");
                p = blank(p, end);
                if (p == end || *p++ != ':') return NULL;
            }
            if (!(p = value_end(p, end, depth + 1, counts ? weight : &aside))) return NULL;
            p = blank(p, end);
            if (p == end) return NULL;
            if (*p == close) return p + 1;
            if (*p != ',') return NULL;
            p = blank(p + 1, end);
        }
        return NULL;
    }
    const char *start = p;
    while (p < end && (strchr("+-.", *p) || (*p >= '0' && *p <= '9') || (*p >= 'a' && *p <= 'z') || *p == 'E') && *p) p++;
    if (p == start) return NULL;
    if (*start == '-' || (*start >= '0' && *start <= '9')) { ++*weight; return p; }
    return is(start, p, "true") || is(start, p, "false") || is(start, p, "null") ? p : NULL;
}

static bool keep_id(char *id, const char *from, const char *end) {
    if (end - from >= ID_MAX) return false;
    for (; from < end; from++) *id++ = (unsigned char)*from < 0x21 || *from == '"' || *from == '\\' || *from == 0x7f ? '_' : *from;
    *id = 0;
    return true;
}

static const char *plant(Ask *ask, const char *name, size_t len) { /* NULL, or what is wrong with the fault */
    for (size_t i = 0; i < sizeof FAULTS / sizeof *FAULTS; i++) {
        size_t n = strlen(FAULTS[i].name);
        if (len < n || memcmp(name, FAULTS[i].name, n) || (len > n && name[n] != ':')) continue;
        if (FAULTS[i].counted != (len > n)) return "this fault in user wants a number after a colon, or none: see null_server.c";
        char *stop = NULL;
        ask->fault = FAULTS[i].fault;
        ask->fault_n = FAULTS[i].counted ? strtol(name + n + 1, &stop, 10) : 0;
        if (FAULTS[i].counted && (stop != name + len || stop == name + n + 1 || ask->fault_n < 0))
            return "the number of this fault in user is not a whole number";
        if (ask->fault == PER_EVENT && (ask->fault_n < 1 || ask->fault_n > PER_EVENT_MAX)) return "per-event wants 1 to 64";
        if (ask->fault == LATE_END && (ask->fault_n < 1 || ask->fault_n > 16)) return "late-end wants 1 to 16";
        if (ask->fault == STATUS && (ask->fault_n < 400 || ask->fault_n > 599)) return "status wants 400 to 599";
        return NULL;
    }
    return NULL;
}

static const char *read_ask(const char *p, const char *end, Ask *ask) { /* NULL, or why it is refused */
    static const char broken[] = "the body is not a JSON object";
    bool prompted = false;
    char user[ID_MAX] = "";
    ask->tokens = 16;
    p = blank(p, end);
    if (p == end || *p != '{') return broken;
    p = blank(p + 1, end);
    while (p < end && *p == '"') {
        const char *key = p, *key_end = string_end(p, end);
        if (!key_end) return broken;
        p = blank(key_end, end);
        if (p == end || *p++ != ':') return broken;
        const char *value = blank(p, end);
        long weight = 0;
        if (!(p = value_end(value, end, 0, &weight))) return broken;
        if (is(key, key_end, "\"max_tokens\"") || is(key, key_end, "\"max_completion_tokens\"")) {
            char *stop;
            long tokens = strtol(value, &stop, 10);
            if (!is(value, p, "null")) {
                if (stop != p || tokens < 1 || tokens > TOKENS_MAX) return "max_tokens is not a whole number from 1 to 65536";
                ask->tokens = tokens;
            }
        } else if (is(key, key_end, ask->chat ? "\"messages\"" : "\"prompt\"")) {
            if (*value != '[' && (ask->chat || *value != '"')) return "prompt is neither text nor token ids, or messages no list";
            prompted = true;
            ask->prompt_tokens = weight;
        } else if (is(key, key_end, "\"stream\"")) ask->stream = is(value, p, "true");
        else if (is(key, key_end, "\"n\"") && !is(value, p, "1") && !is(value, p, "null")) return "n other than 1 is not served";
        else if (is(key, key_end, "\"stream_options\"")) {
            const char *found = memmem(value, (size_t)(p - value), "\"include_usage\"", 15);
            const char *colon = found ? blank(found + 15, p) : p;
            const char *flag = colon < p && *colon == ':' ? blank(colon + 1, p) : p;
            ask->usage = p - flag >= 4 && !memcmp(flag, "true", 4);
        } else if (is(key, key_end, "\"user\"") && *value == '"') {
            if (!keep_id(user, value + 1, p - 1)) return "user is longer than 127 bytes";
            const char *wrong = plant(ask, user, strlen(user));
            if (wrong) return wrong;
        }
        p = blank(p, end);
        if (p < end && *p == ',') {
            p = blank(p + 1, end);
            if (p == end || *p != '"') return broken;
            continue;
        }
        if (p == end || *p != '}') return broken;
        if (blank(p + 1, end) != end) return broken;
        if (!prompted) return ask->chat ? "messages are missing" : "prompt is missing";
        if (!*ask->id) memcpy(ask->id, user, ID_MAX);
        if (ask->fault == SHORT) ask->tokens = ask->tokens > ask->fault_n ? ask->tokens - ask->fault_n : 1;
        return NULL;
    }
    return p < end && *p == '}' && blank(p + 1, end) == end ? (ask->chat ? "messages are missing" : "prompt is missing") : broken;
}

/* ---- HTTP ---- */

typedef struct { const char *at, *end; } Text;

static Text header(const char *head, const char *head_end, const char *name) {
    size_t n = strlen(name);
    for (const char *line = head; (line = memmem(line, (size_t)(head_end - line), "\r\n", 2));) {
        line += 2;
        if ((size_t)(head_end - line) <= n || strncasecmp(line, name, n) || line[n] != ':') continue;
        const char *at = line + n + 1, *end = memmem(at, (size_t)(head_end + 2 - at), "\r\n", 2);
        while (at < end && (*at == ' ' || *at == '\t')) at++;
        while (at < end && (end[-1] == ' ' || end[-1] == '\t')) end--;
        return (Text){at, end};
    }
    return (Text){NULL, NULL};
}

static void answer_get(Connection *c, Text path) {
    char body[512];
    int n = 0;
    if (is(path.at, path.end, "/stamps")) { hand_over_stamps(c); return; }
    if (is(path.at, path.end, "/health")) n = snprintf(body, sizeof body, "{\"status\":\"ok\"}");
    else if (is(path.at, path.end, "/v1/models"))
        n = snprintf(body, sizeof body, "{\"object\":\"list\",\"data\":[{\"id\":\"%s\",\"object\":\"model\",\"created\":0,\"owned_by\":\"null\"}]}", model);
    else if (is(path.at, path.end, "/metrics"))
        n = snprintf(body, sizeof body, "null:requests_total %lu\nnull:prompt_tokens_total %lu\nnull:output_tokens_total %lu\n",
                     requests_total, prompt_total, output_total);
    else { refuse(c, 404, "no such path: GET /health /metrics /stamps /v1/models", false); return; }
    respond(c, 200, is(path.at, path.end, "/metrics") ? "text/plain; version=0.0.4" : "application/json", body, (size_t)n);
}

/* Serve the first whole request in c->in; false when there is none (yet). */
static bool serve_one(Connection *c, uint64_t recv_ns) {
    if (c->fd < 0 || c->busy || c->draining || c->close_after || !c->in_len) return false;
    const char *head_end = memmem(c->in, c->in_len, "\r\n\r\n", 4);
    if (!head_end || head_end - c->in > HEAD_MAX) {
        if (c->in_len > HEAD_MAX) refuse(c, 431, "the head of the request is longer than 16 KiB", true);
        return false;
    }
    const char *line_end = memmem(c->in, c->in_len, "\r\n", 2), *body = head_end + 4;
    const char *space = memchr(c->in, ' ', (size_t)(line_end - c->in));
    const char *version = space ? memchr(space + 1, ' ', (size_t)(line_end - space - 1)) : NULL;
    if (!version || !is(version + 1, line_end, "HTTP/1.1")) { refuse(c, 400, "not an HTTP/1.1 request", true); return false; }
    Text method = {c->in, space}, path = {space + 1, version};
    const char *query = memchr(path.at, '?', (size_t)(path.end - path.at));
    if (query) path.end = query;
    if (header(c->in, head_end, "Transfer-Encoding").at) { refuse(c, 501, "send the body with a Content-Length", true); return false; }
    Text length = header(c->in, head_end, "Content-Length"), id = header(c->in, head_end, "X-Request-Id");
    Text persist = header(c->in, head_end, "Connection"), expect = header(c->in, head_end, "Expect");
    unsigned long size = 0;
    for (const char *d = length.at; d < length.end; d++) {
        if (*d < '0' || *d > '9') { refuse(c, 400, "Content-Length is not a number", true); return false; }
        if ((size = size * 10 + (unsigned long)(*d - '0')) > BODY_MAX) {
            refuse(c, 413, "the body is longer than 1 MiB", true);
            return false;
        }
    }
    bool post = is(method.at, method.end, "POST");
    if (post && length.at == length.end) { refuse(c, 411, "a POST needs a Content-Length", true); return false; }
    if ((size_t)(c->in + c->in_len - body) < size) {
        if (expect.at && !c->continued) put(c, "HTTP/1.1 100 Continue\r\n\r\n", 25, BACKLOG_MAX);
        c->continued = true;
        return false;
    }
    c->continued = false;
    c->close_after = persist.at && persist.end - persist.at == 5 && !strncasecmp(persist.at, "close", 5);
    Ask ask = {.chat = is(path.at, path.end, "/v1/chat/completions")};
    const char *wrong = NULL;
    if (!post && !is(method.at, method.end, "GET")) refuse(c, 405, "only GET and POST are served", false);
    else if (!post) answer_get(c, path);
    else if (!ask.chat && !is(path.at, path.end, "/v1/completions"))
        refuse(c, 404, "no such path: POST /v1/completions /v1/chat/completions", false);
    else if (!keep_id(ask.id, id.at, id.end)) refuse(c, 400, "X-Request-Id is longer than 127 bytes", false);
    else if ((wrong = read_ask(body, body + size, &ask))) refuse(c, 400, wrong, false);
    else if (ask.fault == STATUS) refuse(c, (int)ask.fault_n, "planted", false);
    else begin(c, &ask, recv_ns);
    if (c->fd < 0) return false;
    size_t used = (size_t)(body - c->in) + size;
    memmove(c->in, c->in + used, c->in_len -= used);
    return true;
}

static void receive(Connection *c, uint64_t recv_ns) {
    for (;;) {
        if (c->draining) c->in_len = 0;
        if (c->in_len == c->in_cap) {
            if (c->in_cap > HEAD_MAX + BODY_MAX) { hang_up(c); return; } /* more than a whole request sent ahead */
            c->in = checked(realloc(c->in, c->in_cap = c->in_cap ? 2 * c->in_cap : 16 << 10));
        }
        size_t room = c->in_cap - c->in_len;
        ssize_t got = recv(c->fd, c->in + c->in_len, room, MSG_DONTWAIT);
        if (got < 0 && errno == EAGAIN) break;
        if (got <= 0) { hang_up(c); return; } /* who stops sending is gone: nobody speaks HTTP half-closed */
        c->in_len += (size_t)got;
        if ((size_t)got < room) break;
    }
    while (serve_one(c, recv_ns)) {}
}

static void accept_all(int listener) {
    for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        if (connections == CONNECTIONS_MAX) { close(fd); continue; }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        Connection *c = checked(calloc(1, sizeof *c));
        c->fd = fd;
        c->heap_at = -1;
        c->number = accepted++;
        connections++;
        struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = c};
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &e)) hang_up(c);
    }
}

static void fire(void) { /* everything that is due, but not for ever: requests wait too */
    uint64_t now = now_ns();
    for (int budget = 512; budget && heap_len && heap[0]->due_ns <= now; budget--) {
        Connection *c = heap[0];
        emit(c);
        if (c->fd >= 0 && !c->busy) while (serve_one(c, now_ns())) {}
    }
}

static void prepare(void) {
    for (int chat = 0; chat < 2; chat++)
        for (int k = 1; k <= PER_EVENT_MAX; k++)
            prepared[chat][k].len = event_chunk(prepared[chat][k].bytes, chat, " a", k, "null", "");
}

static double number(const char *text, const char *name, double least, double most) {
    char *end;
    double value = strtod(text, &end);
    if (*end || end == text || !(value >= least && value <= most)) {
        fprintf(stderr, "null-server: %s wants a number from %g to %g, not %s\n", name, least, most, text);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv) {
    int port = 0;
    for (int i = 1; i < argc; i += 2) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(name, "--port")) port = (int)number(value, name, 0, 65535);
        else if (!strcmp(name, "--ttft-ms")) ttft_ns = (uint64_t)(number(value, name, 0, 1e6) * 1e6);
        else if (!strcmp(name, "--tpot-ms")) tpot_ns = (uint64_t)(number(value, name, 0, 1e6) * 1e6);
        else if (!strcmp(name, "--tokens-per-event")) tokens_per_event = (int)number(value, name, 1, PER_EVENT_MAX);
        else if (!strcmp(name, "--spin-us")) spin_ns = (uint64_t)(number(value, name, 0, 1e6) * 1e3);
        else if (!strcmp(name, "--first-event") && (!strcmp(value, "token") || !strcmp(value, "role"))) role_first = *value == 'r';
        else if (!strcmp(name, "--model") && *value && strlen(value) < 200 && !strpbrk(value, "\"\\")) model = value;
        else {
            fprintf(stderr, "null-server: cannot use '%s %s'; options: --port N --ttft-ms X --tpot-ms X --tokens-per-event N "
                            "--first-event token|role --spin-us X --model NAME\n", name, value);
            return 2;
        }
    }
    prepare();
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) { files.rlim_cur = files.rlim_max; setrlimit(RLIMIT_NOFILE, &files); }

    /* The parent's process, not its thread: PR_SET_PDEATHSIG would fire when the thread that started us ends. */
    pid_t parent_pid = getppid();
    int parent = (int)syscall(SYS_pidfd_open, parent_pid, 0);
    if (parent < 0) perror("null-server: pidfd_open (Linux 5.3 or later is needed)");
    if (parent < 0 || getppid() != parent_pid) return 1;

    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);
    sigprocmask(SIG_BLOCK, &stop, NULL);
    int signals = signalfd(-1, &stop, SFD_CLOEXEC), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t here_size = sizeof here;
    if (signals < 0 || timer < 0 || epoll < 0 || listener < 0 || bind(listener, (struct sockaddr *)&here, sizeof here) ||
        listen(listener, CONNECTIONS_MAX) || getsockname(listener, (struct sockaddr *)&here, &here_size)) {
        fprintf(stderr, "null-server: cannot listen on 127.0.0.1:%d: %s\n", port, strerror(errno));
        return 1;
    }
    int *const ends[] = {&signals, &parent}, *const quiet[] = {&listener, &timer};
    for (int i = 0; i < 2; i++) {
        epoll_ctl(epoll, EPOLL_CTL_ADD, *ends[i], &(struct epoll_event){.events = EPOLLIN, .data.ptr = ends[i]});
        epoll_ctl(epoll, EPOLL_CTL_ADD, *quiet[i], &(struct epoll_event){.events = EPOLLIN | (i ? EPOLLET : 0), .data.ptr = quiet[i]});
    }
    printf("listening on %d\n", ntohs(here.sin_port));
    fflush(stdout);

    static struct epoll_event ready[256];
    for (uint64_t armed = 0;;) {
        fire();
        bury();
        int wait = -1;
        if (heap_len) {
            uint64_t next = heap[0]->due_ns;
            if (next <= now_ns() + spin_ns) wait = 0;
            else if (next != armed) {
                armed = next; /* edge-triggered and absolute: setting it again is all the care a timer needs */
                struct itimerspec at = {.it_value = {(time_t)(next / 1000000000u), (long)(next % 1000000000u)}};
                timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
            }
        }
        int n = epoll_wait(epoll, ready, 256, wait);
        if (n < 0 && errno != EINTR) { perror("null-server: epoll_wait"); return 1; }
        uint64_t recv_ns = now_ns(); /* what epoll reports had arrived by now, however long reading it takes */
        for (int i = 0; i < n; i++) {
            void *who = ready[i].data.ptr;
            if (who == &signals || who == &parent) return 0;
            if (who == &timer) continue;
            if (who == &listener) { accept_all(listener); continue; }
            Connection *c = who;
            if (c->fd >= 0 && ready[i].events & EPOLLOUT) flush(c);
            if (c->fd >= 0 && ready[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) receive(c, recv_ns);
            if (heap_len && heap[0]->due_ns <= now_ns()) fire();
        }
    }
}
