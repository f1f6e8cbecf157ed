// Lets user-mode Linux before 6.13 run on processors with AMX, loaded into it by LD_PRELOAD: it sets a thread's floating-point
// state with a buffer of 2696 bytes, and the machine's kernel refuses any size but its own, which is larger there.
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

long ptrace(enum __ptrace_request request, ...)
{
    static char whole[1 << 16];
    va_list rest;
    va_start(rest, request);
    pid_t pid = va_arg(rest, pid_t);
    void *addr = va_arg(rest, void *), *data = va_arg(rest, void *);
    va_end(rest);

    if (request == PTRACE_SETREGSET && (long)addr == NT_X86_XSTATE) {
        struct iovec *part = data, all = { whole, sizeof whole };
        if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, addr, &all) < 0)
            return -1;
        if (part->iov_len < all.iov_len) {
            memcpy(whole, part->iov_base, part->iov_len);
            return syscall(SYS_ptrace, request, pid, addr, &all);
        }
    }
    // The PEEK requests return what they read, as the C library's ptrace does.
    int peek = request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER;
    long word, result = syscall(SYS_ptrace, request, pid, addr, peek ? &word : data);
    if (!peek || result < 0)
        return result;
    errno = 0;
    return word;
}
