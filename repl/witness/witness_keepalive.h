/* Sockets between the embedded witness and its clients, for both ends. */
#pragma once

/* Questions and answers leave at once, and an end that is gone is found out in seconds. */
void witness_keep_alive(int fd);
