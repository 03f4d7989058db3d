/* The plainest client that does the generator's work without measuring it: one thread, epoll, each
 * connection sends a batch of lines, waits until all are answered, and sends the next.
 *
 * It writes lines of the generator's form and length, with their own conn and seq, and looks at a
 * reply just enough to know that it is {"status":"ok"}. It keeps no times and no histograms.
 * What it does not do either: no partial lines at the end of a read are kept but their length, no
 * other reply is understood (it ends the run), no connection is reopened.
 *
 *     cc -O2 -o epoll epoll.c && ./epoll 127.0.0.1 9000 <connections> <messages> <batch>
 *
 * Prints one JSON object: messages, seconds, and the CPU seconds of the load (without connecting).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define OK "{\"status\":\"ok\"}\n"
#define OK_BYTES (sizeof(OK) - 1)
#define LINE "{\"timestamp\":\"2026-11-21T03:53:57.123456Z\",\"level\":\"INFO\",\"service\":\"checkout\"," \
             "\"message\":\"order 104729 placed by the web shop and paid after 137 ms\"," \
             "\"host\":\"node-07\",\"run\":\"c0ffee42\",\"conn\":"

struct connection {
    int fd;
    uint64_t seq;
    uint64_t unanswered;
    size_t cut;              /* bytes of a reply at the end of the last read */
    char *pending;           /* what the socket did not take */
    size_t pending_at, pending_end;
    char prefix[320];        /* LINE conn ,"seq": */
    size_t prefix_bytes;
};

static char *out, *in;
static const size_t in_bytes = 256 * 1024;
static uint64_t left, answered;
static int epoll_fd;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static size_t append(char *to, struct connection *c) {
    memcpy(to, c->prefix, c->prefix_bytes);
    size_t n = c->prefix_bytes;
    char digits[20];
    int count = 0;
    uint64_t seq = c->seq++;
    do {
        digits[count++] = '0' + seq % 10;
        seq /= 10;
    } while (seq > 0);
    while (count > 0)
        to[n++] = digits[--count];
    to[n++] = '}';
    to[n++] = '\n';
    return n;
}

static void watch(struct connection *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &event) < 0)
        die("epoll_ctl");
}

static void flush(struct connection *c) {
    while (c->pending_at < c->pending_end) {
        ssize_t n = send(c->fd, c->pending + c->pending_at, c->pending_end - c->pending_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0)
            die("send");
        c->pending_at += n;
    }
    watch(c, EPOLLIN);
}

static void next(struct connection *c, uint64_t batch) {
    uint64_t count = left < batch ? left : batch;
    if (count == 0)
        return;
    left -= count;
    c->unanswered = count;
    size_t bytes = 0;
    for (uint64_t i = 0; i < count; i++)
        bytes += append(out + bytes, c);
    ssize_t n = send(c->fd, out, bytes, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN)
        die("send");
    if (n < 0)
        n = 0;
    if ((size_t)n < bytes) {
        c->pending = realloc(c->pending, bytes - n);
        memcpy(c->pending, out + n, bytes - n);
        c->pending_at = 0;
        c->pending_end = bytes - n;
        watch(c, EPOLLIN | EPOLLOUT);
    }
}

static void receive(struct connection *c, uint64_t batch) {
    ssize_t n = recv(c->fd, in, in_bytes, 0);
    if (n < 0 && errno == EAGAIN)
        return;
    if (n <= 0)
        die("recv");
    /* Every reply has the same bytes, so the stream is a repetition of them. */
    size_t at = 0, phase = c->cut;
    while (at < (size_t)n) {
        size_t part = OK_BYTES - phase;
        if (part > (size_t)n - at)
            part = (size_t)n - at;
        if (memcmp(in + at, OK + phase, part) != 0) {
            fprintf(stderr, "not a reply: %.*s\n", (int)(n - at), in + at);
            exit(1);
        }
        at += part;
        phase += part;
        if (phase == OK_BYTES) {
            phase = 0;
            if (c->unanswered-- == 0) {
                fprintf(stderr, "a reply to nothing\n");
                exit(1);
            }
            answered++;
        }
    }
    c->cut = phase;
    if (c->unanswered == 0)
        next(c, batch);
}

static double seconds(struct timeval t) { return t.tv_sec + t.tv_usec / 1e6; }

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: epoll HOST PORT CONNECTIONS MESSAGES BATCH\n");
        return 2;
    }
    int connections = atoi(argv[3]);
    uint64_t total = left = strtoull(argv[4], NULL, 10), batch = strtoull(argv[5], NULL, 10);
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &to.sin_addr) != 1)
        die("inet_pton");
    struct connection *all = calloc(connections, sizeof *all);
    out = malloc(batch * 400);
    in = malloc(in_bytes);
    epoll_fd = epoll_create1(0);
    for (int i = 0; i < connections; i++) {
        struct connection *c = &all[i];
        c->fd = socket(AF_INET, SOCK_STREAM, 0);
        if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0)
            die("connect");
        int one = 1;
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0)
            die("fcntl");
        c->prefix_bytes = sprintf(c->prefix, "%s%d,\"seq\":", LINE, i);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, c->fd, &event) < 0)
            die("epoll_ctl");
    }
    struct rusage before, after;
    struct timespec begin, end;
    getrusage(RUSAGE_SELF, &before);
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (int i = 0; i < connections; i++)
        next(&all[i], batch);
    struct epoll_event events[1024];
    while (answered < total) {
        int n = epoll_wait(epoll_fd, events, 1024, -1);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].events & EPOLLOUT)
                flush(c);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                receive(c, batch);
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &end);
    getrusage(RUSAGE_SELF, &after);
    printf("{\"messages\":%llu,\"seconds\":%.6f,\"cpu_user_s\":%.6f,\"cpu_system_s\":%.6f,"
           "\"rss_peak_bytes\":%llu}\n",
           (unsigned long long)answered,
           end.tv_sec - begin.tv_sec + (end.tv_nsec - begin.tv_nsec) / 1e9,
           seconds(after.ru_utime) - seconds(before.ru_utime),
           seconds(after.ru_stime) - seconds(before.ru_stime),
           (unsigned long long)after.ru_maxrss * 1024);
    return 0;
}
