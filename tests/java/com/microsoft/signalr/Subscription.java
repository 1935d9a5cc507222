package com.microsoft.signalr;

public interface Subscription {
    void unsubscribe();
}
