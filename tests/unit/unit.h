/* What every unit test starts from: cmocka with the headers that it wants included first. */
#pragma once

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

/* Loopback has 2^24 addresses: one of our own for each process. There any port is free, and stays so when it is closed
 * and opened again, whoever tests beside us. */
static inline const char *own_loopback(void)
{
    static _Thread_local char address[sizeof("127.255.255.255")];
    unsigned pid = (unsigned)getpid();
    snprintf(address, sizeof(address), "127.%u.%u.%u", 64 + (pid >> 16) % 128, (pid >> 8) % 256, pid % 256);
    return address;
}
