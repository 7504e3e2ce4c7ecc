/* A library that a process loads (LD_PRELOAD) to record what it writes to the database files in the
 * folder DISK_FOLDER.
 *
 * It records writes and syncs in DISK_LOG, in order. A test can then simulate a power cut: data that
 * was not synced is lost, completely or in part. Nothing is really synced. While a file named
 * DISK_LOG plus ".full" exists, the disk is full: writes fail with ENOSPC.
 *
 * A record: kind (1 byte: o open, w write, t truncate, s sync, u unlink), length of the file's name
 * (2 bytes), name, offset (8 bytes), length of the data (4 bytes), data.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char *names[FILES];
static int log_fd = -1;
static char full_path[4096];
static const char *folder;
static size_t folder_length;

static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_open)(const char *, int, ...);
static int (*real_close)(int);
static int (*real_ftruncate)(int, off_t);
static int (*real_unlink)(const char *);
static int (*real_fsync)(int);

__attribute__((constructor)) static void begin(void) {
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_open = dlsym(RTLD_NEXT, "open64");
    real_close = dlsym(RTLD_NEXT, "close");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
    real_unlink = dlsym(RTLD_NEXT, "unlink");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    folder = getenv("DISK_FOLDER");
    const char *path = getenv("DISK_LOG");
    if (!folder || !path) return;
    folder_length = strlen(folder);
    snprintf(full_path, sizeof full_path, "%s.full", path);
    log_fd = real_open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
}

/* The name of a recorded file; NULL for other files, and for SQLite's shared memory, which never
 * survives a power cut. */
static const char *name_of(const char *path) {
    if (log_fd < 0 || !path || strncmp(path, folder, folder_length) != 0) return NULL;
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    int is_ours = strstr(name, ".db") || strstr(name, ".journal.log");
    return is_ours && !strstr(name, "-shm") ? name : NULL;
}

static const char *file_of(int fd) { return fd >= 0 && fd < FILES ? names[fd] : NULL; }

static void record(char kind, const char *name, uint64_t offset, const void *bytes, uint32_t length) {
    uint16_t name_length = (uint16_t)strlen(name);
    struct iovec parts[] = {
        {&kind, 1}, {&name_length, 2}, {(void *)name, name_length},
        {&offset, 8}, {&length, 4}, {(void *)bytes, length},
    };
    if (writev(log_fd, parts, length ? 6 : 5) < 0) abort();
}

static int opened(const char *path, int fd) {
    const char *name = name_of(path);
    if (fd >= 0 && fd < FILES && name) {
        pthread_mutex_lock(&lock);
        names[fd] = strdup(name);
        record('o', name, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    return fd;
}

int open(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = va_arg(arguments, mode_t);
    va_end(arguments);
    return opened(path, real_open(path, flags, mode));
}

int open64(const char *path, int flags, ...) {
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = va_arg(arguments, mode_t);
    va_end(arguments);
    return opened(path, real_open(path, flags, mode));
}

int close(int fd) {
    if (file_of(fd)) {
        pthread_mutex_lock(&lock);
        free(names[fd]);
        names[fd] = NULL;
        pthread_mutex_unlock(&lock);
    }
    return real_close(fd);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) {
    const char *name = file_of(fd);
    if (!name) return real_pwrite(fd, bytes, length, offset);
    if (access(full_path, F_OK) == 0) {
        errno = ENOSPC;
        return -1;
    }
    pthread_mutex_lock(&lock);
    ssize_t written = real_pwrite(fd, bytes, length, offset);
    if (written > 0) record('w', name, (uint64_t)offset, bytes, (uint32_t)written);
    pthread_mutex_unlock(&lock);
    return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return pwrite64(fd, bytes, length, offset);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    const char *name = file_of(fd);
    if (!name) return real_write(fd, bytes, length);
    off_t offset = lseek(fd, 0, SEEK_CUR);
    ssize_t written = pwrite64(fd, bytes, length, offset);
    if (written > 0) lseek(fd, offset + written, SEEK_SET);
    return written;
}

int ftruncate64(int fd, off_t length) {
    const char *name = file_of(fd);
    if (!name) return real_ftruncate(fd, length);
    pthread_mutex_lock(&lock);
    int result = real_ftruncate(fd, length);
    if (result == 0) record('t', name, (uint64_t)length, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

static int sync_file(int fd) {
    const char *name = file_of(fd);
    if (!name) return real_fsync(fd);
    pthread_mutex_lock(&lock);
    record('s', name, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    return 0;
}

int fsync(int fd) { return sync_file(fd); }
int fdatasync(int fd) { return sync_file(fd); }

int unlink(const char *path) {
    const char *name = name_of(path);
    int result = real_unlink(path);
    if (result == 0 && name) {
        pthread_mutex_lock(&lock);
        record('u', name, 0, NULL, 0);
        pthread_mutex_unlock(&lock);
    }
    return result;
}
