/*
 * Preloaded into a program and all that it starts: notes in the file that CALLS names every
 * process that begins, every name that is looked up and every address but loopback that
 * something is sent to, and lets none of them through. Native code is seen as Python is, unless
 * it makes system calls by itself.
 */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void note(const char *what, const char *whom)
{
    const char *calls = getenv("CALLS");
    int file = calls ? open(calls, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;

    if (file >= 0) {
        dprintf(file, "%s %s\n", what, whom);
        close(file);
    }
}

__attribute__((constructor)) static void begin(void)
{
    note("process", program_invocation_name);
}

/* Whether this is a name, and no address written down; noted if so. */
static int is_name(const char *host)
{
    unsigned char address[sizeof(struct in6_addr)];

    if (!host || inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1)
        return 0;
    note("name", host);
    return 1;
}

/* Whether this leads beyond this machine; noted if so. */
static int is_far(const struct sockaddr *to)
{
    char text[INET6_ADDRSTRLEN] = "?";

    if (to && to->sa_family == AF_INET) {
        const struct in_addr *address = &((const struct sockaddr_in *)to)->sin_addr;
        if (ntohl(address->s_addr) >> 24 == IN_LOOPBACKNET)
            return 0;
        inet_ntop(AF_INET, address, text, sizeof text);
    } else if (to && to->sa_family == AF_INET6) {
        const struct in6_addr *address = &((const struct sockaddr_in6 *)to)->sin6_addr;
        if (IN6_IS_ADDR_LOOPBACK(address)
            || (IN6_IS_ADDR_V4MAPPED(address) && address->s6_addr[12] == IN_LOOPBACKNET))
            return 0;
        inet_ntop(AF_INET6, address, text, sizeof text);
    } else {
        return 0;
    }
    note("address", text);
    errno = ENETUNREACH;
    return 1;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found)
{
    return is_name(node) ? EAI_FAIL : REAL(getaddrinfo)(node, service, hints, found);
}

struct hostent *gethostbyname(const char *name)
{
    return is_name(name) ? NULL : REAL(gethostbyname)(name);
}

struct hostent *gethostbyname2(const char *name, int family)
{
    return is_name(name) ? NULL : REAL(gethostbyname2)(name, family);
}

int gethostbyname_r(const char *name, struct hostent *host, char *buffer, size_t size,
                    struct hostent **found, int *error)
{
    if (!is_name(name))
        return REAL(gethostbyname_r)(name, host, buffer, size, found, error);
    *found = NULL;
    *error = HOST_NOT_FOUND;
    return 0;
}

int connect(int socket, const struct sockaddr *to, socklen_t size)
{
    return is_far(to) ? -1 : REAL(connect)(socket, to, size);
}

ssize_t sendto(int socket, const void *bytes, size_t count, int flags, const struct sockaddr *to,
               socklen_t size)
{
    return is_far(to) ? -1 : REAL(sendto)(socket, bytes, count, flags, to, size);
}

ssize_t sendmsg(int socket, const struct msghdr *message, int flags)
{
    return is_far(message->msg_name) ? -1 : REAL(sendmsg)(socket, message, flags);
}
